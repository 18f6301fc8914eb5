"""A small Qwen3-VL and synthetic grounding data, to try every command offline and on a CPU."""
