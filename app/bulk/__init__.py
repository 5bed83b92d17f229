"""Many texts on one machine: rows of files in, the same rows with answers out, in order, whatever stops the process."""
