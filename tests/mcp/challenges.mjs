// What npm's oauth4webapi, a certified OAuth client, reads in our answers.
// usage: node challenges.mjs PATH-OF-oauth4webapi URL TOKEN...
// It prints the challenge for each token, and the metadata of the resource.
import { pathToFileURL } from "node:url";

const [path, url, ...tokens] = process.argv.slice(2);
const oauth = await import(pathToFileURL(path).href);
const overHTTP = { [oauth.allowInsecureRequests]: true };

const challenges = [];
for (const token of tokens) {
  try {
    await oauth.protectedResourceRequest(token, "GET", new URL(url), undefined, undefined, overHTTP);
    challenges.push(null);
  } catch (error) {
    if (!(error instanceof oauth.WWWAuthenticateChallengeError)) throw error;
    challenges.push({ status: error.status, challenges: error.cause });
  }
}
// It refuses a document that is not of this very resource (RFC 9728 section 3.3).
const response = await oauth.resourceDiscoveryRequest(new URL(url), overHTTP);
const metadata = await oauth.processResourceDiscoveryResponse(new URL(url), response);
console.log(JSON.stringify({ challenges, metadata }));
