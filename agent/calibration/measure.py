"""What is measured, in which order, and which of it is a roof.

Of all kinds and sizes the fastest is the roof. Because the fastest of many noisy numbers is a little too
fast, the winner is measured once more, with more repeats, and only that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agent.calibration.curve import BATCHES, INPUTS, OUTPUTS, Point, Product, Ridge, ridge_of
from agent.calibration.device import ARRAYS, FORMATS, Device, Traffic, UnsupportedError, format_of
from agent.calibration.timings import Timing, repeat
from agent.clock import Clock
from agent.errors import AgentError
from agent.units import GIBI, MEBI, render_quantity

LEAST_TRAFFIC_BYTES = 256 * MEBI
TRAFFIC_OF_L2 = 8
"""So many times the L2 is far more than a cache can help with; at least `LEAST_TRAFFIC_BYTES`."""
TRAFFIC_STEPS = (1, 4, 16)
SIZES = (1024, 2048, 4096, 8192, 16384)
"""Of square matrices; the larger ones as long as there is time and memory."""
MEMORY_RATIO = 0.6
"""Of the free memory that one measurement may take."""
NEEDED_BYTES = 2 * GIBI
"""Free memory below which nothing that is measured would say anything: the smallest sizes and a context."""

LEAST_SAMPLES, MOST_SAMPLES = 5, 25
ROOF_SAMPLES = (15, 60)
"""Of what is then the roof: at least, at most."""
ROOF_WEIGHT = 2.0
"""Its share of the time, against 1 for each that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Bytes moved by one kind of kernel over one size."""

    kind: Traffic
    moved_bytes: int
    timing: Timing

    @property
    def bytes_per_second(self) -> float:
        """Achieved."""
        return self.moved_bytes / self.timing.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All that was measured on one device."""

    streams: tuple[Stream, ...]
    """All that were tried."""
    dram: Stream
    """The roof."""
    products: tuple[Point, ...]
    """All that were tried, square."""
    compute: tuple[Point, ...]
    """The roofs, one a format."""
    missing: tuple[tuple[str, str], ...]
    """Formats that could not be measured, each with the reason."""
    curve: tuple[Point, ...]
    ridge: Ridge | None

    def roof(self, name: str) -> Point | None:
        """The one of that format."""
        return next((point for point in self.compute if point.product.format.name == name), None)


Tell = Callable[[str, int, int], None]
"""Is told what is measured now, and how many of how many have been."""


class _Budget:
    """Deals the seconds out: what some did not need the others get."""

    def __init__(self, seconds: float, weight: float, *, clock: Clock) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds
        self._weight = weight

    def share(self, weight: float = 1.0) -> float:
        """What one measurement may take of what is left."""
        left = max(self._end - self._clock.monotonic(), 0.0)
        return left * min(weight / self._weight, 1.0) if self._weight > 0 else 0.0

    def spend(self, weight: float) -> None:
        """That one is done, or is left out."""
        self._weight -= weight


class Bench:
    """Measures one device within so many seconds."""

    def __init__(
        self, device: Device, *, clock: Clock, seconds: float, dtypes: Sequence[str], tell: Tell
    ) -> None:
        self._device, self._clock = device, clock
        self._dtypes = tuple(each.name for each in FORMATS if each.name in dtypes)
        traffic_weight = len(ARRAYS) * len(TRAFFIC_STEPS) + ROOF_WEIGHT
        products_weight = len(self._dtypes) * (len(SIZES) + ROOF_WEIGHT)
        self._budget = _Budget(seconds, traffic_weight + products_weight + len(BATCHES), clock=clock)
        self._tell = tell
        self._done = 0
        self._total = (
            len(ARRAYS) * len(TRAFFIC_STEPS) + 1 + len(self._dtypes) * (len(SIZES) + 1) + len(BATCHES)
        )

    def run(self) -> Calibration:
        """All of it. Raises `AgentError` where the device has no room for the least of it."""
        streams = tuple(self._try_streams())
        if not streams:
            free = render_quantity(self._device.free_bytes, "B")
            raise AgentError(
                f"the GPU has {free} of free memory, too little to measure: stop what holds the rest"
            )
        best = max(streams, key=lambda stream: stream.bytes_per_second)
        dram = self._stream(best.kind, best.moved_bytes, is_roof=True)

        products: list[Point] = []
        compute: list[Point] = []
        missing: list[tuple[str, str]] = []
        for dtype in self._dtypes:
            begun = self._done
            try:
                tried = tuple(self._try_products(dtype))
                fastest = max(tried, key=lambda point: point.flops_per_second)
                compute.append(self._product(fastest.product, is_roof=True))
            except UnsupportedError as error:
                missing.append((dtype, str(error)))
                self._skip(len(SIZES) + 1 - (self._done - begun))
                continue
            products.extend(tried)

        curve = self._curve()
        self._tell("done", self._total, self._total)
        return Calibration(
            streams=streams,
            dram=dram,
            products=tuple(products),
            compute=tuple(compute),
            missing=tuple(missing),
            curve=curve,
            ridge=ridge_of(curve),
        )

    # --- bytes ---------------------------------------------------------------------------------

    def _try_streams(self) -> Iterator[Stream]:
        least = max(LEAST_TRAFFIC_BYTES, TRAFFIC_OF_L2 * (self._device.l2_bytes or 0))
        room = self._device.free_bytes * MEMORY_RATIO
        for kind in ARRAYS:
            longest = 0.0
            for step in TRAFFIC_STEPS:
                if least * step > room or (longest and self._is_too_long(longest * 4)):
                    self._skip()
                    continue
                stream = self._stream(kind, least * step)
                longest = stream.timing.seconds
                yield stream

    def _stream(self, kind: Traffic, moved_bytes: int, *, is_roof: bool = False) -> Stream:
        self._say(f"{kind} of {render_quantity(moved_bytes, 'B')}", is_roof=is_roof)
        timed = self._device.traffic(kind, moved_bytes)
        return Stream(kind=kind, moved_bytes=moved_bytes, timing=self._repeat(timed, is_roof=is_roof))

    # --- FLOPs ---------------------------------------------------------------------------------

    def _try_products(self, dtype: str) -> Iterator[Point]:
        form = format_of(dtype)
        longest = 0.0
        for at, size in enumerate(SIZES):
            product = Product(m=size, k=size, n=size, format=form)
            room = self._device.free_bytes * MEMORY_RATIO
            if at and (product.bytes > room or self._is_too_long(longest * 8)):
                self._skip()
                continue
            point = self._product(product)
            longest = point.timing.seconds
            yield point

    def _product(self, product: Product, *, is_roof: bool = False) -> Point:
        self._say(f"{product.format.name} {product.m}×{product.k}×{product.n}", is_roof=is_roof)
        timed = self._device.product(product.m, product.k, product.n, product.format.name)
        return Point(product=product, timing=self._repeat(timed, is_roof=is_roof))

    def _curve(self) -> tuple[Point, ...]:
        """In the first 16-bit format that the device has, else in fp32."""
        for dtype in ("bf16", "fp16", "fp32"):
            form = format_of(dtype)
            try:
                return tuple(
                    self._product(Product(m=batch, k=INPUTS, n=OUTPUTS, format=form)) for batch in BATCHES
                )
            except UnsupportedError:
                continue
        self._skip(len(BATCHES))
        return ()

    # --- time ----------------------------------------------------------------------------------

    def _repeat(self, timed: Callable[[], float], *, is_roof: bool) -> Timing:
        least, most = ROOF_SAMPLES if is_roof else (LEAST_SAMPLES, MOST_SAMPLES)
        weight = ROOF_WEIGHT if is_roof else 1.0
        share = self._budget.share(weight)
        timing = repeat(timed, clock=self._clock, seconds=share, least=least, most=most)
        self._budget.spend(weight)
        self._done += 1
        return timing

    def _is_too_long(self, seconds: float) -> bool:
        """Whether the least number of repeats of something that long would take more than its share twice."""
        return seconds * LEAST_SAMPLES > 2 * self._budget.share()

    def _skip(self, count: int = 1) -> None:
        self._budget.spend(count)
        self._done += count

    def _say(self, what: str, *, is_roof: bool) -> None:
        self._tell(f"{what}, again" if is_roof else what, self._done, self._total)
