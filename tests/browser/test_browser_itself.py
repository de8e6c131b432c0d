"""That the browser here has what the viewer is built on: Ed25519 in WebCrypto, keys that cannot be read back, gzip streams."""


def test_webcrypto_has_ed25519_and_keeps_keys_to_itself(page, static_site, watched):
    address, folder = static_site
    (folder / "empty.html").write_text("<!doctype html><title>empty</title><link rel=icon href=data:,>")
    page.goto(f"{address}/empty.html")
    made = page.evaluate(
        """async () => {
          const pair = await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
          const gzip = typeof DecompressionStream === "function";
          return { extractable: pair.privateKey.extractable, trusted: "trustedTypes" in globalThis, gzip };
        }"""
    )
    assert made == {"extractable": False, "trusted": True, "gzip": True}
