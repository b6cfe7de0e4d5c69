"""Health checks of providers: when (schedule), how (asking), where (running), what it means (recording)."""
