// Keeps the page, so that it opens without a network.
const MARK = `hfft ${self.registration.scope}`;
const CACHE = `${MARK} {digest}`;
const FILES = {files};
// The browser's own cache may hold files of an earlier export under these names; it asks the server first.
const fresh = (names) => names.map((name) => new Request(name, { cache: "no-cache" }));

self.addEventListener("install", (event) =>
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(fresh(FILES)))
      .then(() => self.skipWaiting()),
  ),
);
self.addEventListener("activate", (event) =>
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith(`${MARK} `) && name !== CACHE))
      .then((old) => Promise.all(old.map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  ),
);
self.addEventListener("message", (event) =>
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(fresh(event.data)))
      .then(() => event.source.postMessage("kept")),
  ),
);
self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).origin !== self.location.origin) return;
  event.respondWith(
    caches
      .open(CACHE)
      .then((cache) => cache.match(event.request, { ignoreSearch: true }))
      .then((kept) => kept ?? fetch(event.request)),
  );
});
