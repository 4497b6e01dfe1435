"""Everything that imports Ray: Data for ingest and training, Train, Tune, and actors that sample and evaluate."""
