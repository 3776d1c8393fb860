"""Result back-ends: the port (`base`) and one adapter per store."""
