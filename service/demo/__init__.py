"""The demo: a simulated pump station with faults at known times, watched by a real service over HTTP."""
