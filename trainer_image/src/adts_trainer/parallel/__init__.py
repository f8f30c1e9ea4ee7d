"""How the model is laid over the processes."""
