"""The proof that a user can run: every supported layout against one process."""
