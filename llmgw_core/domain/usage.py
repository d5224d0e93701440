"""What a call used and what it cost: the values that the books are made of.

Money is an integer number of nano-units (1e-9) of the installation's currency; times are
integer nanoseconds since the epoch; durations are integer microseconds. None of the values can be
part of a reference cycle, so the garbage collector need not follow them (`gc=False`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

UsageSource = Literal["provider", "estimated", "none"]
"""`provider`: as the upstream reported it. `estimated`: derived from what was sent and
delivered. `none`: nothing reached an upstream, so nothing was used."""

CallStatus = Literal["completed", "incomplete", "client_left", "failed", "refused"]
"""`completed`: a whole reply. `incomplete`: cut after the content commit. `client_left`: the
client went away first. `failed`: every attempt failed. `refused`: stopped after admission by
a hook or by the upstream as the client's fault (4xx)."""


EntryKind = Literal["call", "reversal", "rebooking"]
"""`call`: what a call used. Re-pricing adds two entries for it: a `reversal`, which has all
quantities and amounts negated, and a `rebooking` at the new price. Nothing is ever edited."""


class UsageDetails(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The rarer classes of tokens. What is named input is part of `input_tokens`, everything else
    of `output_tokens`. `images` are those in the request, counted where they have a price."""

    cache_write_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    images: int = 0

    def plus(self, other: UsageDetails) -> UsageDetails:
        """The sum."""
        return UsageDetails(
            *(getattr(self, name) + getattr(other, name) for name in UsageDetails.__struct_fields__)
        )


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens of one attempt. `cached_input_tokens` are part of `input_tokens`,
    `reasoning_tokens` part of `output_tokens`, as in OpenAI's usage object. `method`: how an
    estimate was made. `details`: None where there are none, which is nearly always.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    source: UsageSource = "provider"
    method: str = ""
    details: UsageDetails | None = None

    @property
    def total_tokens(self) -> int:
        """Input plus output."""
        return self.input_tokens + self.output_tokens

    def with_images(self, images: int) -> Usage:
        """The same with that many images in the request, if anything was used at all."""
        if not images or self.source == "none":
            return self
        details = msgspec.structs.replace(self.details or UsageDetails(), images=images)
        return msgspec.structs.replace(self, details=details)

    def plus(self, other: Usage) -> Usage:
        """The sum; estimated as soon as one of the two is."""
        exact = self.source == other.source == "provider"
        if self.details is None or other.details is None:
            details = self.details or other.details
        else:
            details = self.details.plus(other.details)
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            "provider" if exact else "estimated",
            self.method or other.method,
            details,
        )


NO_USAGE = Usage(source="none")


class AttemptRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt on one deployment. `cost` is what the provider bills, `charge` what the
    tenant pays, both in nano-units. `outcome` is `ok` or the class of the failure; after a failure,
    `reason` says what followed and why. `price` is the id of the price sheet that was used, "" if
    there was none. `usage` is given where it is not the call's: of a failed attempt that is paid.
    """

    deployment: str
    model: str
    outcome: str
    status: int
    duration_us: int
    cost: int
    charge: int
    reason: str = ""
    price: str = ""
    usage: Usage | None = None


class EndedAttempt(msgspec.Struct, frozen=True, gc=False):
    """What observers hear of an attempt at the moment it ends. `number` counts from 1 within the
    call; the rest is as in the `AttemptRecord` that the call's usage record will have."""

    call_id: str
    number: int
    deployment: str
    model: str
    outcome: str
    status: int
    duration_us: int
    cost: int
    charge: int
    reason: str = ""


class UsageRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The one record of one admitted call, as journalled and stored. Internal ids only."""

    call_id: str
    started_ns: int
    endpoint: str
    organization_id: str
    team_id: str | None
    user_id: str | None
    key_id: str | None
    model: str
    """As the caller asked for it."""
    served_model: str
    """The public name of the model that answered (differs after a fallback); "" if none did."""
    deployment: str
    zone: str
    stream: bool
    status: CallStatus
    http_status: int
    error_code: str
    usage: Usage
    cost: int
    charge: int
    currency: str
    duration_us: int
    """From receipt of the head to settlement."""
    first_content_us: int
    """From receipt of the head to the first content; 0 if there was none."""
    attempts: tuple[AttemptRecord, ...]
    parent: str | None = None
    """The call in the course of which a plugin made this one."""
    cost_center: str = ""
    """The id of the cost centre that held at the time of the call; "" if there was none."""
    entry: EntryKind = "call"
    corrects: str | None = None
    """Of a reversal or rebooking: the id of the call. It has the call's time and an own id."""


class DeliveryRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A second entry for a call whose delivery did not go as settled: the client left after
    settlement, before the last byte was handed over.
    """

    call_id: str
    status: CallStatus
    duration_us: int
