"""Traces of requests for OpenTelemetry, if its standard variables ask for them."""
