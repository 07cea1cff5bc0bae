// node tests/browser/screenshots.mjs PAGE.html FOLDER: the page on a desktop, in the dark, on a
// phone, and with a detail panel open, as PNG.
import { mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { launch } from "./browser.mjs";

const [page, folder] = process.argv.slice(2);
if (!page || !folder) {
  console.error("usage: node tests/browser/screenshots.mjs PAGE.html FOLDER");
  process.exit(2);
}
const SHOTS = [
  { name: "desktop", width: 1280, height: 860, colorScheme: "light" },
  { name: "dark", width: 1280, height: 860, colorScheme: "dark", open: true },
  { name: "phone", width: 390, height: 844, colorScheme: "light", deviceScaleFactor: 2 },
];

mkdirSync(folder, { recursive: true });
const browser = await launch();
for (const { name, width, height, open, ...options } of SHOTS) {
  const context = await browser.newContext({ viewport: { width, height }, ...options });
  const tab = await context.newPage();
  await tab.goto(pathToFileURL(resolve(page)).href);
  if (open) {
    await tab.locator(".opener").first().click();
    await tab.mouse.move(0, 0);
  }
  await tab.screenshot({ path: resolve(folder, `leaderboard_${name}.png`) });
  await context.close();
}
await browser.close();
