"""What developers run besides the tests: set-up, generated documents, dashboards, pictures."""
