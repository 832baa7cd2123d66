"""The control page: a server of its own that reads the runs' journals and posts people's commands."""
