import tracemalloc

from jwt_middleware.issuing.counts import MAX_COUNT, SLOTS, MemoryCounts

from ..support import Clock


def test_memory_is_bounded_whatever_comes() -> None:
    counts = MemoryCounts(900, Clock())
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        counts.add(counts.find_slot("ada", b""), 1)
        first, _ = tracemalloc.get_traced_memory()
        # One in each piece of the memory, and so all that it can ever take.
        for slot in range(0, SLOTS, 16):
            counts.add(slot.to_bytes(8, "big"), 1)
        everything, _ = tracemalloc.get_traced_memory()
        for slot in range(0, 2**40, 2**24 + 1):
            counts.add(slot.to_bytes(8, "big"), 1)
        more, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert first - before < 10_000
    assert 8 * SLOTS < everything - before < 10_000_000
    assert more - everything < 10_000


def test_nobody_can_work_out_which_names_share_a_slot() -> None:
    one, other = MemoryCounts(900, Clock()), MemoryCounts(900, Clock())
    assert one.find_slot("ada", b"known") == one.find_slot("ada", b"known")
    assert one.find_slot("ada", b"known") != other.find_slot("ada", b"known")


def test_a_count_has_an_end() -> None:
    counts = MemoryCounts(900, Clock())
    slot = counts.find_slot("ada", b"")
    counts.add(slot, MAX_COUNT - 2)
    assert [counts.add(slot, 1) for _ in range(4)] == [MAX_COUNT - 1, MAX_COUNT, MAX_COUNT, MAX_COUNT]


def test_a_count_never_falls_below_zero() -> None:
    counts = MemoryCounts(900, Clock())
    slot = counts.find_slot("ada", b"")
    assert [counts.add(slot, amount) for amount in (-1, 1, -5, 1)] == [0, 1, 0, 1]


def test_a_count_starts_again_a_period_after_its_first_event() -> None:
    clock = Clock()
    counts = MemoryCounts(60, clock)
    slot = counts.find_slot("ada", b"")
    counts.add(slot, 1)
    clock.now += 59
    assert (counts.add(slot, 1), counts.seconds_left(slot)) == (2, 1)
    clock.now += 1
    assert (counts.add(slot, 1), counts.seconds_left(slot)) == (1, 60)
    counts.clear(slot)
    clock.now += 10
    assert (counts.add(slot, 1), counts.seconds_left(slot)) == (1, 60)
