"""What is forgotten of the packets changes no answer, and nothing grows with the number of pictures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skd_bench.video.stream.packet_trail import PacketTrail

LONGEST = 1000


def find_rest_of_all(packets, stamp):
    """The rule, with every packet at hand."""
    rest = 0
    for other, duration in reversed(packets):
        if other == stamp:
            return rest
        if 0 < other - stamp <= LONGEST:
            rest = max(rest, other - stamp + min(duration, LONGEST))
    return 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=400),
    st.integers(1, 16),
    st.integers(1, 400),
)
def test_the_rest_is_that_of_all_packets(steps, reordered, jump_at):
    """Streams with reordered pictures, packets without a picture, and a clock that jumps back."""
    trail, packets, delayed = PacketTrail(), [], []
    for number, (late, has_picture) in enumerate(steps):
        clock = 10 * (number if number < jump_at else number - jump_at)
        stamp = clock + 10 * late * (reordered // 4) + late  # a picture that is decoded before those shown earlier
        packets.append((stamp, 10))
        trail.add(stamp, 10)
        if has_picture:
            delayed.append(stamp)
        if len(delayed) > reordered:
            shown = delayed.pop(delayed.index(min(delayed)))
            trail.forget_before(shown)
            assert trail.find_rest(shown, LONGEST) == find_rest_of_all(packets, shown)
    for shown in sorted(delayed):
        trail.forget_before(shown)
        assert trail.find_rest(shown, LONGEST) == find_rest_of_all(packets, shown)


def test_a_long_recording_is_not_remembered():
    trail, most = PacketTrail(), 0
    for number in range(20_000):
        trail.add(number % 7_000, 1)  # its clock jumps back
        if number >= 16:
            trail.forget_before((number - 16) % 7_000)
            most = max(most, len(trail))
    assert most <= 100


def test_timestamps_that_are_not_those_of_packets_do_not_fill_the_memory():
    trail = PacketTrail()
    for number in range(100_000):
        trail.add(2 * number, 1)
        trail.forget_before(2 * number + 1 if number % 2 else None)
    assert len(trail) <= 1 << 16
    assert trail.find_rest(None, LONGEST) == trail.find_rest(1, LONGEST) == 0


def test_a_long_end_without_pictures_is_counted():
    trail = PacketTrail()
    for number in range(5_000):
        trail.add(number, 1)
    trail.forget_before(3)
    assert trail.find_rest(3, 10_000) == 5_000 - 3
