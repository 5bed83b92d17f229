import socket

import pytest

from app.server import AddressError, _listen


def test_connections_do_not_wait_for_acknowledgements() -> None:
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_address_that_is_not_here_is_refused_with_the_remedy() -> None:
    with pytest.raises(AddressError, match=r"cannot listen on 192\.0\.2\.1:80: .*--host"):
        _listen("192.0.2.1", 80)  # kept for documentation, nobody has it
