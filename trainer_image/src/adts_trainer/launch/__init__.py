"""The launcher: one process per device, rounds agreed with the other pods, answers over HTTP. No torch here."""
