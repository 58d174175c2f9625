"""Studies of speed: each verifies what it times, then writes one JSON file under results/ (see docs/benchmarks.md)."""
