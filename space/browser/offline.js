// Keeps what the page is made of, so that it works without a network after the first visit. The page waits for this
// before it loads the models: they pass through here and are kept on their way, loaded once.
// FILES and VERSION come first in the built file: a new build is another version, which replaces the old one.

self.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(VERSION);
      await cache.addAll(FILES);
      await self.skipWaiting();
    })(),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) if (name !== VERSION) await caches.delete(name);
      await self.clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(
    (async () => {
      const cache = await caches.open(VERSION);
      const kept = await cache.match(event.request, { ignoreSearch: true });
      if (kept) return kept;
      const answer = await fetch(event.request);
      if (answer.ok && new URL(event.request.url).origin === self.location.origin) {
        event.waitUntil(cache.put(event.request, answer.clone()));
      }
      return answer;
    })(),
  );
});
