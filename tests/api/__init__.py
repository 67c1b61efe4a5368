"""The service and the command as their users meet them."""
