"""Compiled programs come back as they were stored, or not at all."""

from research.machine.compilation_cache import CheckedCache


def test_an_entry_that_changed_is_compiled_anew(tmp_path):
    program = bytes(range(256)) * 100
    CheckedCache(str(tmp_path), max_size=-1).put("step", program)
    cache = CheckedCache(str(tmp_path), max_size=-1)
    assert cache.get("step") == program
    (entry,) = tmp_path.glob("step-cache")
    for damaged in (b"", program[:-1], bytes([program[0] ^ 1]) + program[1:]):
        entry.write_bytes(damaged)
        assert cache.get("step") is None
        cache.put("step", program)
        assert cache.get("step") == program
    (tmp_path / "step-crc32").unlink()
    assert cache.get("step") is None
