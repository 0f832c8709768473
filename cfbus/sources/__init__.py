"""Where images come from: each source lists shards and reads ranges of them."""
