"""Live predictions: from the vehicle positions of a feed to published predictions for every stop ahead.

`publication` is the data of one update, which `trip_updates` and `network_view` turn into what is served.
"""
