"""Everything that knows Ray: ingestion, the data stream, the training job."""
