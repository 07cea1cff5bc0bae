// The leaderboard page in a real browser. PAGES is the folder that pages.py filled.
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { launch } from "./browser.mjs";

const PAGES = process.env.PAGES;
const DESKTOP = { viewport: { width: 1280, height: 900 } };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

let browser;
before(async () => {
  browser = await launch();
});
after(async () => {
  await browser?.close();
});

/** Open a page, run `check` on it, and fail on any console message, error, dialog or request. */
async function on(name, options, check) {
  const context = await browser.newContext(options);
  const tab = await context.newPage();
  const complaints = [];
  tab.setDefaultTimeout(30000);
  tab.on("console", (message) => complaints.push(`console: ${message.text()}`));
  tab.on("pageerror", (error) => complaints.push(`error: ${error}`));
  tab.on("dialog", (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  const url = pathToFileURL(resolve(PAGES, `${name}.html`)).href;
  context.on("request", (request) => {
    if (!request.url().startsWith(url)) {
      complaints.push(`request: ${request.url()}`);
    }
  });
  await tab.goto(url);
  await check(tab, url);
  assert.deepEqual(complaints, []);
  await context.close();
}

const names = (tab, table = "table.ranking") =>
  tab.locator(`${table} .entry:visible .name`).allTextContents();
const column = (tab, table, cell) => tab.locator(`${table} .entry .row ${cell}`).allTextContents();
const sortedBy = (tab, table) =>
  tab.locator(`${table} > thead th[aria-sort]`).evaluateAll((headers) =>
    headers.map((header) => `${header.textContent.trim()} ${header.getAttribute("aria-sort")}`),
  );
const widthOf = (tab) => tab.evaluate(() => document.scrollingElement.scrollWidth);
const LINF = "#table-2 .ranking";

test("the page loads without a message, an error or a request to anywhere", async () => {
  for (const name of ["sample", "hostile", "many", "empty"]) {
    await on(name, DESKTOP, async (tab) => {
      assert.equal(await tab.locator("h1").isVisible(), true);
    });
  }
});

test("scripts that a name could bring in are refused by the page's own policy", async () => {
  const context = await browser.newContext();
  const tab = await context.newPage();
  await tab.goto(pathToFileURL(resolve(PAGES, "sample.html")).href);
  await tab.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.owned = true";
    document.body.append(script);
    const image = document.createElement("img");
    image.setAttribute("onerror", "window.owned = true");
    image.src = "missing.png";
    document.body.append(image);
  });
  assert.equal(await tab.evaluate(() => window.owned), undefined);
  await context.close();
});

test("a click on a heading sorts its table alone, first downwards, then upwards", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const others = await names(tab, "#table-3 .ranking");
    assert.deepEqual(await sortedBy(tab, LINF), ["Rank ascending"]);
    const clean = tab.locator(`${LINF} > thead th[data-sort="clean"] button`);
    for (const [direction, sign] of [["descending", -1], ["ascending", 1]]) {
      await clean.click();
      const shown = (await column(tab, LINF, ".clean")).map(Number);
      assert.equal(shown.length, 8);
      assert.deepEqual(shown, [...shown].sort((a, b) => sign * (a - b)));
      assert.deepEqual(await sortedBy(tab, LINF), [`Clean ${direction}`]);
    }
    assert.deepEqual(await names(tab, "#table-3 .ranking"), others);
  });
});

test("numbers sort as numbers, names as text, and rows without a rank come last", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const before = await names(tab, LINF);
    const press = (key) => tab.locator(`${LINF} > thead th[data-sort="${key}"] button`).first().click();
    await press("name");
    assert.deepEqual(await names(tab, LINF), [...before].sort());
    await press("interval");
    const lows = (await column(tab, LINF, ".interval")).map((text) => parseFloat(text.slice(1)));
    assert.deepEqual(lows, [...lows].sort((a, b) => b - a));
    await press("rank");
    assert.deepEqual(await names(tab, LINF), before);
    await press("rank");
    const ranks = await column(tab, LINF, ".rank");
    assert.deepEqual(ranks, ["7", "6", "4=", "4=", "3", "1=", "1=", "–"]);
    await press("status");
    assert.equal((await names(tab, LINF))[0], "cifar10_random_mask");
  });
});

test("the worst class sorts by its number, and a row without one comes last", async () => {
  await on("sample", DESKTOP, async (tab) => {
    await tab.locator(`${LINF} > thead th[data-sort="worst_class"] button`).click();
    const shown = (await column(tab, LINF, ".worst-class")).map((text) => parseFloat(text));
    const numbers = shown.slice(0, -1);
    assert.equal(numbers.length, 7);
    assert.deepEqual(numbers, [...numbers].sort((a, b) => b - a));
    assert.ok(Number.isNaN(shown.at(-1)));
  });
});

test("a sorted row takes its flags and its detail panel with it", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const last = tab.locator(`${LINF} .entry`).last();
    assert.match(await last.locator(".why").textContent(), /zero_gradients/);
    await tab.locator(`${LINF} > thead th[data-sort="status"] button`).click();
    const first = tab.locator(`${LINF} .entry`).first();
    assert.match(await first.locator(".why").textContent(), /zero_gradients/);
    await first.locator(".opener").click();
    assert.match(await first.locator(".panel").textContent(), /random_mask/);
  });
});

test("filters narrow the rows, hide empty tables, say how many are left, and clear", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const output = tab.locator(".filters output");
    const choose = (name, value) => tab.locator(`.filters select[name="${name}"]`).selectOption(value);
    assert.equal(await output.textContent(), "13 rows");
    await choose("dataset", "cifar10");
    assert.equal(await output.textContent(), "10 of 13 rows");
    assert.equal(await tab.locator("#table-3").isVisible(), false);
    assert.equal(await tab.locator('nav a[href="#table-3"]').isVisible(), false);
    await choose("norm", "Linf");
    assert.equal(await output.textContent(), "8 of 13 rows");
    await choose("architecture", "wrn34_10");
    assert.deepEqual((await names(tab)).sort(), ["cifar10_lbgat", "cifar10_trades"]);
    await choose("status", "flagged");
    assert.equal(await output.textContent(), "0 of 13 rows");
    assert.equal(await tab.locator(".nothing").isVisible(), true);
    await tab.locator('.filters button[type="reset"]').click();
    assert.equal(await output.textContent(), "13 rows");
    assert.equal((await names(tab)).length, 13);
    assert.equal(await tab.locator(".nothing").isVisible(), false);
  });
});

test("the search finds every word in names, defenses, flags and hashes, in any case", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const search = tab.locator('.filters input[type="search"]');
    const found = async (text) => {
      await search.fill(text);
      return names(tab);
    };
    assert.deepEqual(await found("MART"), ["cifar10_mart"]);
    assert.deepEqual(await found("lbgat wrn34 cifar100"), ["cifar100_lbgat_trades"]);
    assert.deepEqual(await found("zero_gradients"), ["cifar10_random_mask"]);
    const hash = await tab
      .locator(`${LINF} .entry`, { hasText: "cifar10_irat" })
      .locator(".block code")
      .last()
      .textContent();
    assert.deepEqual(await found(hash), ["cifar10_irat"]);
    assert.deepEqual(await found("no such words"), []);
    assert.equal((await found("  ")).length, 13);
  });
});

test("a click on a row opens its panel with protocol, hashes, stages and command", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const entry = tab.locator(`${LINF} .entry`).first();
    const panel = entry.locator(".panel");
    assert.equal(await panel.isVisible(), false);
    await entry.locator(".clean").first().click();
    assert.equal(await panel.isVisible(), true);
    assert.equal(await tab.locator(".panel:visible").count(), 1);
    const text = await panel.innerText();
    for (const part of [
      "pgd20_ce",
      "attack pgd · steps 20",
      "after apgd_ce",
      "linf_standard@8/255.v2",
      "ours 1",
      "sha256:636966617231300123456789abcdef",
      "best validation robust accuracy",
      "torch 2.13.0",
      "Batch dependent",
      "of 1,000",
    ]) {
      assert.ok(text.includes(part), part);
    }
    assert.equal(
      await panel.locator("pre").textContent(),
      "rbl evaluate CHECKPOINT --protocol linf_standard --eps 8/255 --dataset cifar10 --n 1000 " +
        "--seed 0 --batch-size 500 --chunk-size 500 --threads 1 --evidence int8 --device cuda",
    );
    await entry.locator(".clean").first().click();
    assert.equal(await panel.isVisible(), false);
  });
});

test("opening a panel does not move the columns", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const where = () =>
      tab
        .locator(`${LINF} > thead th`)
        .evaluateAll((cells) => cells.map((cell) => cell.getBoundingClientRect().left));
    const before = await where();
    await tab.locator(`${LINF} .opener`).first().click();
    assert.deepEqual(await where(), before);
  });
});

test("the keyboard alone reaches, sorts, opens and closes", async () => {
  await on("sample", DESKTOP, async (tab) => {
    const focused = () => tab.evaluate(() => document.activeElement.textContent.trim());
    const press = (key) => tab.keyboard.press(key);
    const reached = [];
    for (let i = 0; i < 20; i += 1) {
      await press("Tab");
      reached.push(
        await tab.evaluate(() => document.activeElement.name || document.activeElement.textContent.trim()),
      );
    }
    const table = ["Rank", "Model", "Clean", "PGD-20", "CW-30", "AutoAttack", "Worst case"];
    assert.equal(reached[0], "theme");
    assert.deepEqual(reached.slice(4, 10), ["text", "dataset", "norm", "architecture", "status", "Clear"]);
    assert.deepEqual(reached.slice(10, 17), table);
    assert.deepEqual(reached.slice(18, 20), ["Cost", "Status"]);

    const header = tab.locator('#table-1 > table > thead th[data-sort="clean"] button');
    await header.focus();
    await press("Enter");
    assert.deepEqual(await sortedBy(tab, "#table-1 .ranking"), ["Clean descending"]);
    await press("Space");
    assert.deepEqual(await sortedBy(tab, "#table-1 .ranking"), ["Clean ascending"]);
    assert.equal(await focused(), "Clean");

    const opener = tab.locator("#table-1 .opener").first();
    await opener.focus();
    for (const key of ["Enter", "Space"]) {
      await press(key);
      assert.equal(await opener.getAttribute("aria-expanded"), "true");
      assert.equal(await tab.locator("#table-1 .panel").first().isVisible(), true);
      await press("Tab");
      assert.notEqual(await focused(), await opener.textContent());
      await press("Escape");
      assert.equal(await opener.getAttribute("aria-expanded"), "false");
      assert.equal(await tab.locator("#table-1 .panel").first().isVisible(), false);
      assert.equal(await focused(), await opener.textContent());
    }
  });
});

test("what has the focus is outlined", async () => {
  await on("sample", DESKTOP, async (tab) => {
    for (let i = 0; i < 22; i += 1) {
      await tab.keyboard.press("Tab");
      const drawn = await tab.evaluate(() => {
        const element = document.activeElement;
        const shown = element.name === "theme" ? element.nextElementSibling : element;
        return getComputedStyle(shown).outlineStyle;
      });
      assert.notEqual(drawn, "none");
    }
  });
});

test("a link to a row opens it, also when it was filtered away", async () => {
  await on("sample", DESKTOP, async (tab, url) => {
    const entry = tab.locator(`${LINF} .entry`, { hasText: "cifar10_mart" });
    const id = await entry.getAttribute("id");
    assert.equal(await entry.locator(".links a").getAttribute("href"), `#${id}`);
    await tab.locator('.filters input[type="search"]').fill("trades");
    assert.equal(await entry.isVisible(), false);
    await tab.evaluate((hash) => (location.hash = hash), id);
    await entry.locator(".panel").waitFor();
    assert.equal((await names(tab)).length, 13);
    await tab.goto("about:blank");
    await tab.goto(`${url}#${id}`);
    assert.equal(await tab.locator(`#${id} .panel`).isVisible(), true);
  });
});

test("the copied command is the one shown", async () => {
  const options = { ...DESKTOP, permissions: ["clipboard-read", "clipboard-write"] };
  await on("sample", options, async (tab) => {
    const entry = tab.locator(`${LINF} .entry`).first();
    await entry.locator(".opener").click();
    await entry.getByRole("button", { name: "Copy command" }).click();
    await entry.getByRole("button", { name: "Copied" }).waitFor();
    const copied = await tab.evaluate(() => navigator.clipboard.readText());
    assert.equal(copied, await entry.locator("pre").textContent());
  });
});

test("the system's colours are followed until one is chosen, which is kept", async () => {
  const paper = (tab) => tab.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await on("sample", { ...DESKTOP, colorScheme: "dark" }, async (tab) => {
    const dark = await paper(tab);
    await tab.locator(".theme label", { hasText: "light" }).click();
    const light = await paper(tab);
    assert.notEqual(light, dark);
    await tab.reload();
    assert.equal(await paper(tab), light);
    assert.equal(await tab.locator('.theme input[value="light"]').isChecked(), true);
    await tab.locator(".theme label", { hasText: "auto" }).click();
    assert.equal(await paper(tab), dark);
  });
});

for (const colorScheme of ["light", "dark"]) {
  test(`text stands out from its ground, ${colorScheme}`, async () => {
    await on("sample", { ...DESKTOP, colorScheme }, async (tab) => {
      await tab.locator(`${LINF} .opener`).last().click();
      const weak = await tab.evaluate(() => {
        const channel = (value) => {
          const c = value / 255;
          return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        };
        const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
        const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
        const ground = (element) => {
          for (let at = element; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
          }
          return [255, 255, 255];
        };
        return [...document.querySelectorAll("h1, h2, p, dt, dd, th, td, li, a, span, code, b")]
          .filter((element) => element.checkVisibility() && element.textContent.trim())
          .map((element) => {
            const [a, b] = [parse(getComputedStyle(element).color), ground(element)].map(light);
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.className];
          })
          .filter(([contrast]) => contrast < 4.5);
      });
      assert.deepEqual(weak, []);
    });
  });
}

test("without JavaScript every row is there and its details open", async () => {
  await on("sample", { ...DESKTOP, javaScriptEnabled: false }, async (tab) => {
    assert.equal(await tab.locator(".entry .row:visible").count(), 13);
    assert.equal(await tab.locator(".filters").isVisible(), false);
    assert.equal(await tab.locator(".theme").isVisible(), false);
    assert.equal(await tab.locator(".why:visible").count(), 1);
    const entry = tab.locator(".entry").first();
    assert.equal(await entry.locator(".panel").isVisible(), false);
    await entry.locator("summary").click();
    assert.equal(await entry.locator(".panel").isVisible(), true);
    assert.match(await entry.locator(".panel").innerText(), /rbl evaluate CHECKPOINT/);
    await tab.locator("#table-1 .protocol summary").click();
    assert.match(await tab.locator("#table-1 .protocol").innerText(), /sha256:/);
  });
});

for (const name of ["sample", "hostile", "many"]) {
  for (const [what, options] of [
    ["a phone", PHONE],
    ["a phone without JavaScript", { ...PHONE, javaScriptEnabled: false }],
    ["a tablet", { viewport: { width: 820, height: 1180 } }],
    ["a small window", { viewport: { width: 1217, height: 800 } }],
    ["a desktop", DESKTOP],
  ]) {
    test(`${name}: nothing is wider than ${what}, panels open or not`, async () => {
      await on(name, options, async (tab) => {
        assert.equal(await widthOf(tab), options.viewport.width);
        const handle = options.javaScriptEnabled === false ? "summary" : ".opener";
        const entries = await tab
          .locator(`.entry ${handle}`)
          .evaluateAll((openers) => openers.map((opener) => opener.click()).length);
        assert.equal(await tab.locator(".panel:visible").count(), entries);
        assert.equal(await widthOf(tab), options.viewport.width);
      });
    });
  }
}

test("on a phone rows are cards that a list sorts", async () => {
  await on("sample", PHONE, async (tab) => {
    const order = tab.locator('.filters select[name="order"]');
    assert.equal(await order.isVisible(), true);
    await order.selectOption("clean");
    const shown = (await column(tab, LINF, ".clean")).map(Number);
    assert.deepEqual(shown, [...shown].sort((a, b) => b - a));
    const [first] = await tab.locator(`${LINF} .row`).all();
    const box = await first.boundingBox();
    assert.ok(box.width <= 390 && box.height > 100);
  });
});

test("hostile names are text: shown as written, and nothing of them runs", async () => {
  await on("hostile", DESKTOP, async (tab) => {
    const shown = await names(tab);
    assert.equal(shown.length, 9);
    const quotes = "\"quotes' & <b>bold</b>\" onmouseover=alert(1)";
    for (const name of ["<script>alert(1)</script>", quotes, "{{ 7 * 7 }}{% raw %}", "x".repeat(500)]) {
      assert.ok(shown.includes(name), name);
    }
    assert.ok(shown.includes("right\ufffdto\ufffdleft\ufffd"));
    assert.equal(await tab.locator("h1").textContent(), "<script>alert(1)</script>");
    assert.equal(await tab.locator("script, style, img, b b, body script").count(), 2);
    for (const row of await tab.locator(".entry .row").all()) {
      await row.hover();
    }
    await tab.locator('.filters select[name="architecture"]').selectOption(quotes);
    assert.deepEqual(await names(tab), [quotes]);
    const opener = tab.locator(".entry:visible .opener");
    await opener.click();
    const text = await tab.locator(".panel:visible").innerText();
    assert.ok(text.includes("--dataset '\"quotes'\"'\"' & <b>bold</b>\" onmouseover=alert(1)'"));
  });
});

test("reported rows are marked, have no rank, and no command", async () => {
  await on("many", DESKTOP, async (tab) => {
    await tab.locator('.filters select[name="status"]').selectOption("reported");
    assert.deepEqual(await names(tab), ["LBGAT", "TRADES", "MART"]);
    assert.deepEqual(new Set(await tab.locator(".entry:visible .rank").allTextContents()), new Set(["–"]));
    await tab.locator('.filters select[name="status"]').selectOption("measured");
    assert.deepEqual(await names(tab), ["many"]);
    await tab.locator('.filters button[type="reset"]').click();
    await tab.locator(".opener").last().click();
    const panel = tab.locator(".panel:visible");
    assert.match(await panel.innerText(), /51.1 \(memory\)[^]*nothing was measured here/);
    assert.equal(await panel.locator("pre").count(), 0);
  });
});

test("a list that sorts cards passes over columns that a table lacks", async () => {
  await on("many", PHONE, async (tab) => {
    await tab.locator('.filters select[name="order"]').selectOption("robust");
    assert.deepEqual(await names(tab), ["many", "LBGAT", "TRADES", "MART"]);
    await tab.locator('.filters select[name="order"]').selectOption("name");
    assert.deepEqual(await names(tab), ["many", "LBGAT", "MART", "TRADES"]);
  });
});

test("a page without results says so and works", async () => {
  await on("empty", DESKTOP, async (tab) => {
    assert.equal(await tab.locator("main").innerText(), "No results yet.");
    assert.equal(await tab.locator(".filters").count(), 0);
    await tab.locator(".theme label", { hasText: "dark" }).click();
  });
});
