"""The data listeners: transports, channels, requests."""
