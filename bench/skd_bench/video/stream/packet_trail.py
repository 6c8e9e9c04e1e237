"""The packets around the last picture of a stream: they show how long it stays when no picture follows it."""

from __future__ import annotations

from collections import OrderedDict

# Packets of pictures that are shown later may lie before that of a picture: at most 16 frames of two fields each in
# H.264 and HEVC, less in other codecs.
_REORDERED = 64
_MOST_UNMATCHED = 1 << 16  # packets, while timestamps of pictures are not those of packets


class PacketTrail:
    """Timestamps and durations of packets, in decoding order, without those that no later picture needs.

    Its size does not grow with the number of pictures, only with that of the packets without a picture after the last.
    """

    def __init__(self) -> None:
        self._packets: OrderedDict[int, tuple[int, int]] = OrderedDict()  # by timestamp: number and duration
        self._count = 0

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, stamp: int, duration: int) -> None:
        """Note the next packet, in ticks; of those with equal timestamps the place of the last is known."""
        _, before = self._packets.pop(stamp, (0, 0))
        self._packets[stamp] = (self._count, max(duration, before))
        self._count += 1

    def forget_before(self, stamp: int | None) -> None:
        """Forget the packets that are not needed once a picture with a timestamp was shown."""
        found = None if stamp is None else self._packets.get(stamp)
        most = _MOST_UNMATCHED if found is None else self._count - found[0] + _REORDERED
        while len(self._packets) > most:
            self._packets.popitem(last=False)

    def find_rest(self, stamp: int | None, longest: int) -> int:
        """How long packets go on after the packet with a timestamp, in ticks; 0 if that cannot be seen.

        Args:
            stamp: Of the last picture; None if it has none.
            longest: The longest time that one picture may be shown.
        """
        if stamp is None or stamp not in self._packets:
            return 0
        rest = 0
        for other, (_, duration) in reversed(self._packets.items()):
            if other == stamp:
                break
            if 0 < other - stamp <= longest:
                rest = max(rest, other - stamp + min(duration, longest))
        return rest
