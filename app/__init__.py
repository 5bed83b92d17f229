"""The service: loads a checkpoint, batches what is asked, answers by HTTP. Knows `model`, never `training`."""
