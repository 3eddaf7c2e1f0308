"""Group `monitoring`: predictions for each service day, their accuracy, and the snapshot of the network."""
