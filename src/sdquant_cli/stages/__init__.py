"""The verbs: each stage reads artifacts, calls one room and publishes one artifact."""
