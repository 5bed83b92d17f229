"""A checkpoint folder: written whole or not at all, read with nothing trusted; FLAN-T5 made into one."""
