"""Data to checkpoint: what `python -m training.train` and its siblings do. Knows `model`, never `app`.

Each file here is a command but for `run` (a configuration made into a run), `config`, `overrides` and `errors`. Below
them, and every import points down: `loop` (steps, validation, state) → `plots`, `tracking`, `distributed` →
`acquisition` (downloads to rows), `evaluation` (scores and reports), `network` (architecture, first weights, LoRA),
`optimization` (losses, optimizers) → `data` (rows to batches).
"""
