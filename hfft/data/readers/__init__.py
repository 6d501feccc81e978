"""Readers of data sets: folders, archives, shards and tables, all by one layout (`hfft.data.layout`)."""
