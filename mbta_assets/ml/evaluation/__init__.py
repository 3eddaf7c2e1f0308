"""Score predictions: metrics, accuracy and drift of a service day, the gate to production."""
