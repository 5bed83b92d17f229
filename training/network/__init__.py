"""Which network a run trains, how its weights begin, and low-rank changes to them."""
