// Debian's chromium, driven by playwright-core, which brings no browser of its own.
import { chromium } from "playwright-core";

/** Start the browser that CHROMIUM names. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    // The pages are local files of ours, and in a container root has no sandbox to go into.
    args: ["--no-sandbox", "--disable-gpu"],
  });
}
