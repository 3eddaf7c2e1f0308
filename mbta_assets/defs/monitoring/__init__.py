"""The group `monitoring`: predictions of each service day, their accuracy, and the snapshot of the network."""
