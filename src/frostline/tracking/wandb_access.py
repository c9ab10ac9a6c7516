"""Check before a training that Weights & Biases can be reached. Imports no torch."""

import importlib.util
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

SECONDS = 5  # within which a server has to answer
OFFLINE = "write to the run folder only with logger.wandb.offline=true, and send it later with `wandb sync`"


def wandb_problem(*, offline: bool) -> str | None:
    """Why nothing can be sent to Weights & Biases; None where it can, or nothing is to be sent."""
    if importlib.util.find_spec("wandb") is None:
        return "logger.wandb: the package wandb is not installed. Type `pip install wandb`, or choose logger=csv."
    import wandb

    settings = wandb.setup().settings
    if offline or settings.mode != "online":
        return None
    if problem := _unreachable(settings.base_url):
        return f"logger.wandb: {settings.base_url} cannot be reached ({problem}). Check the network, or {OFFLINE}."
    try:
        if not wandb.login(prompt=False, verify=False):
            return f"logger.wandb: there is no API key. Type `wandb login`, or set WANDB_API_KEY, or {OFFLINE}."
    except wandb.Error as error:
        return f"logger.wandb: {error} Type `wandb login`, or {OFFLINE}."
    return None


def _unreachable(url: str) -> str | None:
    """Why a server does not answer; any answer will do."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=SECONDS).close()
        except urllib.error.HTTPError:
            found.append(None)
        except (OSError, HTTPException) as error:
            found.append(str(getattr(error, "reason", error)))
        else:
            found.append(None)

    asking = threading.Thread(target=ask, daemon=True)  # the time-out does not bound the look-up of the name
    asking.start()
    asking.join(SECONDS + 1)
    return found[0] if found else f"no answer within {SECONDS} s"
