"""The page in a real browser, before a real proxy."""

import atexit
import functools
import json
import os
from pathlib import Path
from test.dashboard.chromium import Chromium, Page, find_chromium
from test.system.stage import Stage
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s3proxy.dashboard.samples import OUTCOMES

AXE = Path(__file__).with_name("vendor") / "axe.min.js"
VIEWS = ("overview", "traffic", "requests", "cache", "upstream", "instances", "rules", "logs")
PHONE, DESKTOP = (390, 844), (1280, 900)
PICTURES = os.environ.get("S3PROXY_TEST_PICTURES")
"""A directory for pictures of all views, for people to look at."""

RUN_AXE = """
axe.run(document, {resultTypes: ["violations"]}).then((found) =>
    found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).slice(0, 3).join(" ")}`))
"""


@functools.cache
def started() -> tuple[Stage, Chromium]:
    """A proxy and a browser for all tests; ended when the test run ends."""
    program = find_chromium()
    if program is None:
        raise SkipTest("there is no Chromium; on Debian: apt-get install chromium")
    stage = Stage({"dashboard": {"allow_purge": True, "logs_refresh_interval": "1s"}})
    atexit.register(stage.stop)
    browser = Chromium(program)
    atexit.register(browser.stop)
    return stage, browser


class PageCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage, self.browser = started()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.stage.proxy.config['dashboard']['port']}"

    def open(self, view: str = "overview", size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Page:
        """A tab with this view, connected."""
        page = Page(self.browser, width=size[0], height=size[1], dark=dark)
        self.addCleanup(page.close)
        page.open(f"{self.address}/#{view}")
        page.wait("document.querySelector('#live')?.textContent === 'live'")
        page.wait("document.querySelector('#health').dataset.state === 'healthy'")
        return page

    def read(self, key: bytes, seed: int = 1, size: int = 50_000, *, put: bool = False) -> bytes:
        """Read an object through the proxy; gives back where it came from."""
        if put:
            self.stage.put(key, seed, size)
        answer = self.stage.ask(b"GET", key)
        self.assertEqual(answer.status, 200)
        return answer.header(b"x-cache") or b""

    def assertClean(self, page: Page) -> None:
        """Nothing was asked of anybody else, and the console is empty."""
        self.assertEqual(page.look_at_events(), [])
        foreign = [url for url in page.requested if not url.startswith((self.address, "data:"))]
        self.assertEqual(foreign, [])
        self.assertGreater(len(page.requested), 5)


class PageTests(PageCase):
    def test_every_view(self) -> None:
        """Each view shows itself, asks nobody but the proxy, breaks no policy and writes nothing to the console."""
        self.read(b"views/one", put=True)
        page = self.open()
        for view in VIEWS:
            page.evaluate(f"location.hash = '{view}'")
            page.wait(f"!document.getElementById('view-{view}').hidden")
            page.wait("document.querySelectorAll('main > div:not([hidden])').length === 1")
            current = page.evaluate("document.querySelector('nav [aria-current]').textContent.toLowerCase()")
            self.assertEqual(current, view)
        self.assertClean(page)

    def test_same_numbers_as_metrics(self) -> None:
        """The page shows what /metrics says."""
        for _ in range(3):
            self.read(b"numbers/one", put=True)
        self.stage.ask(b"HEAD", b"numbers/one")
        self.stage.ask(b"GET", b"numbers/none")
        page = self.open()
        proxy = self.stage.proxy
        total = proxy.metric("s3proxy_http_requests_total")
        page.wait(f"document.querySelector('[data-total]')?.dataset.total === '{total:.0f}'")
        found: dict[str, Any] = page.evaluate("fetch('/api/v1/summary').then((a) => a.json()).then((d) => d.data)")
        wanted = {
            "requests_total": total,
            "requests": self.requests_by_outcome(),
            "sent": proxy.metric("s3proxy_http_response_bytes_total"),
            "from_s3": proxy.metric("s3proxy_upstream_bytes_total", direction="received"),
            "saved_bytes": proxy.metric("s3proxy_s3_saved_bytes_total"),
            "saved_requests": proxy.metric("s3proxy_s3_requests_saved_total"),
            "status_4xx": sum(proxy.metric("s3proxy_http_requests_total", code=str(code)) for code in range(400, 500)),
            "hit_rate": round(proxy.metric("s3proxy_cache_hit_rate_ratio", window="total"), 6),
            "byte_hit_rate": round(proxy.metric("s3proxy_cache_byte_hit_rate_ratio", window="total"), 6),
            "disk_bytes": proxy.metric("s3proxy_cache_size_bytes", tier="disk"),
            "disk_limit": proxy.metric("s3proxy_cache_limit_bytes", tier="disk"),
        }
        self.assertEqual({name: found[name] for name in wanted}, wanted)
        buckets = page.evaluate("fetch('/api/v1/buckets').then((a) => a.json()).then((d) => d.data.rows)")
        self.assertEqual(sum(row["requests"] for row in buckets), total)
        self.assertEqual(sum(row["sent"] for row in buckets), wanted["sent"])

    def requests_by_outcome(self) -> dict[str, float]:
        """What /metrics says, in the words of the page."""
        sources = {"hit": ("ram", "disk"), "bypass": ("bypass", "write"), "error": ("local", "other")}
        return {
            outcome: sum(
                self.stage.proxy.metric("s3proxy_http_requests_total", source=source)
                for source in sources.get(outcome, (outcome,))
            )
            for outcome in OUTCOMES
        }

    def test_live(self) -> None:
        """What happens is seen within two seconds, without anybody doing anything."""
        page = self.open()
        before = int(page.evaluate("document.querySelector('[data-total]').dataset.total"))
        self.read(b"live/one", put=True)
        took = page.wait(f"Number(document.querySelector('[data-total]').dataset.total) > {before}", 5)
        self.assertLess(took, 2.0)

    def test_the_reason_of_a_miss(self) -> None:
        """The view of requests says why S3 had to be asked."""
        self.read(b"reasons/never-read", put=True)
        page = self.open("requests?q=reasons/never-read")
        page.wait("document.querySelector('#view-requests tbody')?.textContent.includes('cold: nothing of the object')")
        page.evaluate("document.querySelector('#view-requests tbody button').click()")
        page.wait("document.querySelector('dialog[open]')?.textContent.includes('MISS')")
        self.assertClean(page)

    def test_in_flight(self) -> None:
        """A download that is under way is there with its progress, and gone when it is over."""
        self.stage.put(b"flight/slow", 5, 60 << 20)
        page = self.open()
        with self.stage.connect(receive_buffer=4096) as client:
            client.send(self.stage.request(b"GET", b"flight/slow"))
            client.read_head()
            row = (
                "[...document.querySelectorAll('#view-overview tbody tr')].some((row) => "
                "row.textContent.includes('flight/slow') && row.querySelector('progress'))"
            )
            page.wait(row, 6)
        page.wait(f"!({row})", 6)

    def test_purge(self) -> None:
        """An object that is removed on the page is a miss at the next read."""
        self.read(b"purge/one", put=True)
        self.read(b"purge/two", put=True)
        self.assertEqual(self.read(b"purge/one"), b"HIT")
        page = self.open(f"cache?prefix={self.stage.bucket}/purge/")
        row = "[...document.querySelectorAll('#view-cache tbody button')].find((each) => each.textContent === 'one')"
        page.wait(row, 10)
        page.evaluate(f"{row}.click()")
        button = "document.querySelector('dialog[open] button.danger')"
        page.wait(button)
        page.evaluate(f"{button}.click()")
        self.assertEqual(self.read(b"purge/one"), b"HIT", "one press is not enough")
        page.evaluate(f"{button}.click()")
        page.wait("document.querySelector('dialog[open]').textContent.includes('Removed.')")
        self.assertEqual(self.read(b"purge/two"), b"HIT")
        self.assertEqual(self.read(b"purge/one"), b"MISS")
        self.assertClean(page)

    def test_purge_a_folder(self) -> None:
        """A folder is removed after its number of objects was typed; what lies beside it stays."""
        for number in range(3):
            self.read(b"folder/in/%d" % number, put=True)
        self.read(b"folder/beside", put=True)
        page = self.open(f"cache?prefix={self.stage.bucket}/folder/in/")
        page.wait("!document.querySelector('#view-cache button.danger').hidden", 10)
        page.evaluate("document.querySelector('#view-cache button.danger').click()")
        page.wait("document.querySelector('dialog[open] input')", 10)
        self.assertTrue(page.evaluate("document.querySelector('dialog[open] button.danger').disabled"))
        page.evaluate(
            "const input = document.querySelector('dialog[open] input'); input.value = '3'; "
            "input.dispatchEvent(new Event('input')); document.querySelector('dialog[open] button.danger').click()"
        )
        page.wait("document.querySelector('dialog[open]').textContent.includes('3 objects removed.')", 10)
        self.assertEqual(self.read(b"folder/beside"), b"HIT")
        self.assertEqual({self.read(b"folder/in/%d" % number) for number in range(3)}, {b"MISS"})

    def test_log(self) -> None:
        """The log is there, and a line that is written comes by itself."""
        page = self.open("logs")
        page.wait("document.querySelector('#view-logs tbody')?.textContent.includes('ready: ')")
        self.read(b"log/one", put=True)
        page.evaluate(
            "fetch('/api/v1/cache/purge', {method: 'POST', "
            "headers: {'Content-Type': 'application/json', 'X-S3Proxy': '1'}, "
            f"body: JSON.stringify({{ref: 'bucket={self.stage.bucket}&key=log/one'}})}}).then((a) => a.status)"
        )
        page.wait("document.querySelector('#view-logs tbody').textContent.includes('removed 1 object(s)')", 3)

    def test_keys(self) -> None:
        """Views, theme and help by the keyboard; not while somebody types."""
        page = self.open()
        for keys, what in (
            ("gc", "location.hash === '#cache'"),
            ("d", "document.documentElement.dataset.theme === 'light'"),
            ("d", "document.documentElement.dataset.theme === 'dark'"),
            ("d", "document.documentElement.dataset.theme === undefined"),
            ("p", "document.getElementById('pause').getAttribute('aria-pressed') === 'true'"),
            ("p", "document.getElementById('pause').getAttribute('aria-pressed') === 'false'"),
            ("t", "document.getElementById('range').value === '6h'"),
            ("/", "document.activeElement.type === 'search'"),
            ("gl", "document.activeElement.value === 'gl' && location.hash === '#cache'"),
        ):
            for key in keys:
                page.press(key)
            page.wait(what, 3)
        page.evaluate("document.activeElement.blur()")
        page.press("?")
        page.wait("document.querySelector('dialog[open]')?.textContent.includes('next, previous row')")
        page.press("Escape")
        page.wait("!document.querySelector('dialog[open]')")
        self.assertClean(page)

    def test_a_foreign_page_can_do_nothing(self) -> None:
        """A page of another origin can neither read the API nor change anything through it."""
        self.read(b"foreign/one", put=True)
        page = Page(self.browser)
        self.addCleanup(page.close)
        # A page of the metrics listener: another port is another origin.
        page.open(f"http://127.0.0.1:{self.stage.proxy.config['metrics']['port']}/metrics")
        page.wait("document.body?.textContent.includes('s3proxy_')")
        ask = (
            "fetch('%s/api/v1/cache/purge', {method: 'POST', mode: '%s', headers: %s, "
            "body: JSON.stringify({ref: 'bucket=%s&key=foreign/one'})}).then((a) => a.status, () => 'refused')"
        )
        for mode, headers in (
            ("cors", {"Content-Type": "application/json", "X-S3Proxy": "1"}),
            ("no-cors", {"Content-Type": "text/plain"}),
        ):
            answer = page.evaluate(ask % (self.address, mode, json.dumps(headers), self.stage.bucket))
            self.assertIn(answer, ("refused", 0))
        self.assertEqual(self.read(b"foreign/one"), b"HIT")
        read = page.evaluate(f"fetch('{self.address}/api/v1/summary').then(() => 'read', () => 'refused')")
        self.assertEqual(read, "refused")

    def test_connection_lost(self) -> None:
        """When the proxy goes away the page says so, and goes on when it is back."""
        page = self.open()
        self.stage.proxy.terminate()
        page.wait("document.getElementById('live').textContent.includes('lost')", 10)
        self.assertEqual(page.evaluate("document.getElementById('health').dataset.state"), "unknown")
        banner = page.evaluate("document.querySelector('#lost:not([hidden])').textContent")
        self.assertRegex(banner, r"has not answered since \d\d:\d\d:\d\d\. The numbers are those of then\.")
        page.evaluate(AXE.read_text())
        self.assertEqual(page.evaluate(RUN_AXE), [])
        page.evaluate("location.hash = 'requests'")
        page.wait("document.querySelector('#view-requests').textContent.includes('The proxy does not answer.')", 10)
        self.stage.proxy.start()
        page.wait("document.getElementById('live').textContent === 'live'", 20)
        page.wait("document.getElementById('health').dataset.state === 'healthy'")
        page.wait("document.getElementById('lost').hidden")

    def test_names_of_others(self) -> None:
        """Names that clients have chosen are text: they run nothing, hide nothing, and do not take the whole page."""
        for key in (b"odd/%3Cimg%20src=x%20onerror=alert(1)%3E", b"odd/%E2%80%AEgnp.exe%00%0A", b"odd/" + b"n" * 8000):
            self.stage.ask(b"GET", key)
        for size in (PHONE, DESKTOP):
            page = self.open("requests?q=/odd/", size)
            page.wait("document.querySelectorAll('#view-requests tbody tr').length >= 3", 10)
            text = page.evaluate("document.querySelector('#view-requests tbody').textContent")
            for shown in ("<img src=x onerror=alert(1)>", "\\u{202e}gnp.exe\\u{0}\\u{a}", " … "):
                self.assertIn(shown, text)
            self.assertEqual(page.evaluate("document.querySelectorAll('#view-requests img').length"), 0)
            cells = "[...document.querySelectorAll('#view-requests td')].map((cell) => cell.textContent.length)"
            self.assertLess(max(page.evaluate(cells)), 200)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            self.assertLessEqual(wide, 0)
            self.assertClean(page)

    def test_views_that_there_are_not(self) -> None:
        """Any other address shows the overview."""
        page = self.open()
        for name in ("none", "constructor", "__proto__", "/", "%ff"):
            page.evaluate("location.hash = 'logs'")
            page.wait("!document.getElementById('view-logs').hidden")
            page.evaluate(f"location.hash = '{name}'")
            page.wait("!document.getElementById('view-overview').hidden")
        self.assertClean(page)

    def test_history_outlives_a_restart(self) -> None:
        """After a restart the curves still show what was before."""
        shown = (
            "fetch('/api/v1/series?range=1h').then((a) => a.json()).then(({data}) => "
            "data.values[data.names.indexOf('miss')].some((value) => value > 0))"
        )
        self.read(b"history/one", put=True)
        self.open().wait(shown)
        self.stage.proxy.restart()
        self.open().wait(shown)


@functools.cache
def stock(stage: Stage) -> None:
    """Give every view something to show."""
    rules = {"rules": [{"pattern": "*/tmp/**", "read_cache_enabled": False}, {"pattern": "**", "get_ttl": "1h"}]}
    (stage.proxy.cache_dir / "cache_rules.json").write_text(json.dumps(rules))
    stage.proxy.restart()
    for number in range(12):
        stage.put(b"look/%d" % number, number, 40_000 * number)
        for _ in range(2):
            stage.ask(b"GET", b"look/%d" % number)
    for key in (b"look/none", b"x/tmp/none"):
        stage.ask(b"GET", key)


class LookTests(PageCase):
    """On a phone and on a desk, light and dark: everybody can use each view."""

    def setUp(self) -> None:
        super().setUp()
        stock(self.stage)

    def look(self, view: str, size: tuple[int, int], dark: bool) -> None:
        page = self.open(view, size, dark=dark)
        shown = f"document.getElementById('view-{view}')"
        if view not in ("rules", "instances", "overview"):
            page.wait(f"{shown}.querySelector('tbody tr')", 10)
        if view in ("overview", "traffic", "cache", "upstream"):
            page.wait(f"{shown}.querySelector('.u-wrap canvas')", 10)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        self.assertLessEqual(wide, 0, "the page must not scroll sideways")
        tab = page.evaluate("(({left, right}) => [left, innerWidth - right])("
                            "document.querySelector('nav [aria-current]').getBoundingClientRect())")  # fmt: skip
        self.assertGreaterEqual(min(tab), 0, "the name of the view must be seen")
        page.evaluate(AXE.read_text())
        self.assertEqual(page.evaluate(RUN_AXE), [])
        if PICTURES:
            name = f"{view}-{'phone' if size == PHONE else 'desktop'}-{'dark' if dark else 'light'}.png"
            Path(PICTURES, name).write_bytes(page.picture())
        self.assertClean(page)

    def test_dialogs(self) -> None:
        """What opens above the page is accessible, too."""
        for dark in (False, True):
            page = self.open(f"cache?prefix={self.stage.bucket}/look/", dark=dark)
            page.wait("document.querySelector('#view-cache tbody button')", 10)
            page.evaluate("document.querySelector('#view-cache tbody button').click()")
            page.wait("document.querySelector('dialog[open]')?.textContent.includes('Next read')")
            page.evaluate(AXE.read_text())
            self.assertEqual(page.evaluate(RUN_AXE), [])
            if PICTURES:
                Path(PICTURES, f"object-{'dark' if dark else 'light'}.png").write_bytes(page.picture(whole=False))


def _add(view: str, size: tuple[int, int], dark: bool) -> None:
    def test(self: LookTests) -> None:
        self.look(view, size, dark)

    place, light = "phone" if size == PHONE else "desktop", "dark" if dark else "light"
    test.__doc__ = f"The view {view}, {place}, {light}: fits, is accessible, and complains about nothing."
    setattr(LookTests, f"test_{view}_{place}_{light}", test)


for _view in VIEWS:
    for _size in (PHONE, DESKTOP):
        for _dark in (False, True):
            _add(_view, _size, _dark)
