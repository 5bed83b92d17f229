"""The network in torch: what trains, and what is saved."""
