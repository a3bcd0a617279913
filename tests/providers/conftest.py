"""The providers under test, each with the server it talks to."""

import ssl
import warnings

import pytest


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    "A certificate for Yahoo's hosts, and the file with the authority that signed it."
    import trustme
    from servers.yahoo import HOSTS

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return context, file


@pytest.fixture(scope="session")
def yahoo_cache(tmp_path_factory):
    "yfinance keeps the first folder that a process names."
    return tmp_path_factory.mktemp("yfinance")


@pytest.fixture(scope="session")
def yahoo_server(certificates):
    from servers.yahoo import YahooStandIn

    with YahooStandIn(certificates[0]) as server:
        yield server


@pytest.fixture
def yahoo(yahoo_server, certificates, yahoo_cache):
    from curl_cffi import CurlOpt
    from servers.yahoo import HOSTS

    from tradebot.providers import YahooProvider, yahoo_session

    yahoo_server.reset()
    options = {
        CurlOpt.PORT: yahoo_server.port,
        CurlOpt.RESOLVE: [f"{host}:{yahoo_server.port}:127.0.0.1" for host in HOSTS],
    }
    session = yahoo_session(timeout=1.0, verify=str(certificates[1]), curl_options=options, trust_env=False)
    yield YahooProvider(yahoo_cache, session)
    session.close()


@pytest.fixture(scope="session")
def alpaca_server():
    from servers.alpaca_data import AlpacaDataStandIn

    with warnings.catch_warnings():
        # Alpaca's client still imports the old half of websockets.
        warnings.filterwarnings("ignore", "websockets.legacy is deprecated", DeprecationWarning)
        import alpaca.data  # noqa: F401

    with AlpacaDataStandIn() as server:
        yield server


@pytest.fixture
def alpaca(alpaca_server):
    from servers.alpaca_data import KEY, SECRET

    from tradebot.providers import AlpacaProvider

    alpaca_server.reset()
    return AlpacaProvider(KEY, SECRET, url=alpaca_server.url, timeout=1.0)


@pytest.fixture(scope="session")
def csv_folder(tmp_path_factory):
    "The sample written out, one file a symbol."
    from servers.market import stocks

    folder = tmp_path_factory.mktemp("csv")
    for symbol, stock in stocks().items():
        events = {"split": stock.splits, "dividend": stock.dividends}
        stock.bars.assign(**events).to_csv(folder / f"{symbol}.csv", index_label="Date")
    return folder
