"""Why a request got no answer, in one short phrase without an address, and so without credentials."""

from __future__ import annotations

DROPPED = "the connection was dropped"


def reason(error: Exception) -> str:
    """The phrase for a fault, from its type and from what caused it; never from its text, which holds the address.

    ``DROPPED`` is what asking again may help against.
    """
    from requests import exceptions as known

    causes = _causes(error)
    names = {type(cause).__name__ for cause in causes}
    if isinstance(error, known.SSLError):
        import ssl

        refused = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes)
        return "its TLS certificate is not trusted" if refused else "TLS failed"
    if isinstance(error, known.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, known.Timeout):
        return "no answer in time"
    if isinstance(error, known.TooManyRedirects):
        return "it redirects in a circle"
    if isinstance(error, known.InvalidURL | known.MissingSchema | known.InvalidSchema | UnicodeError):
        return "this is no usable address"
    if names & {"NameResolutionError", "gaierror"}:
        return "the host name is unknown"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "connection refused"
    if names & {"ReadTimeoutError", "ConnectTimeoutError", "TimeoutError"}:
        return "no answer in time"
    if names & {"RemoteDisconnected", "ConnectionResetError", "IncompleteRead", "ProtocolError", "BrokenPipeError"}:
        return DROPPED
    system = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    return f"cannot connect ({system or type(error).__name__})"


def _causes(error: BaseException) -> list[BaseException]:
    """The error and everything it wraps, in whichever way (cause, context, arguments, urllib3's ``reason``)."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 20:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found
