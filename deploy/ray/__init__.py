"""The service on Ray Serve: several replicas of the app behind Ray's proxy, which it scales by queued tokens."""
