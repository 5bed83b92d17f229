"""A page to try a service in the browser: a client of its REST interface, and nothing of the service itself."""
