"""Kinds of data sets. `adts_trainer.data_loader.open_dataset` chooses among them."""
