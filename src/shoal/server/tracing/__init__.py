"""Traces of requests for OpenTelemetry, where its standard variables ask for them."""
