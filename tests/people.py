"""What people send to a run while it trains."""

import contextlib
import time

from autotune.commands import mailbox

WHY = {"reason": ""}


def post(tuner, *sent):
    """Post these, in this order, and wait until the trainer has them, or an earlier one has answered them."""
    inbox = tuner._engine.intake.inbox
    with contextlib.closing(mailbox(tuner.folder)) as box:
        for one in sent:
            box.post(one)
        while any(one.id not in inbox._taken and box.ack(one.id).status == "waiting" for one in sent):
            inbox._wake.set()
            time.sleep(0.0005)
