// A real identity provider for the tests: npm's oidc-provider, which issues JWT access tokens for one resource.
// usage: node provider.mjs PATH-OF-oidc-provider PORT RESOURCE SCOPES
// Every login is granted: what is tested is the client and the resource server.
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [path, port, resource, scopes] = process.argv.slice(2);
const { Provider, interactionPolicy } = await import(pathToFileURL(path).href);
const issuer = `http://127.0.0.1:${port}`;

// Nobody sits in front of it, so nobody is asked again and again to confirm a native client.
const policy = interactionPolicy.base();
policy.get("consent").checks.remove("native_client_prompt");

const provider = new Provider(issuer, {
  // Known beforehand: one that registers itself is held to the scopes that it registers with, and cannot ask for more.
  clients: [
    {
      client_id: "known",
      application_type: "native",
      token_endpoint_auth_method: "none",
      grant_types: ["authorization_code", "refresh_token"],
      redirect_uris: ["http://127.0.0.1:1/callback"],
    },
  ],
  features: {
    registration: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, indicator) => {
        if (indicator !== resource) throw new Error(`unknown resource ${indicator}`);
        return { scope: scopes, audience: resource, accessTokenFormat: "jwt", accessTokenTTL: 900, jwt: { sign: { alg: "RS256" } } };
      },
    },
  },
  scopes: ["openid", "offline_access", ...scopes.split(" ")],
  pkce: { required: () => true },
  interactions: { policy, url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});

const handle = provider.callback();
const server = createServer(async (request, response) => {
  if (!request.url.startsWith("/interaction/")) return handle(request, response);
  try {
    const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
    if (prompt.name === "login") {
      return await provider.interactionFinished(request, response, { login: { accountId: "ada" } });
    }
    const grant = grantId ? await provider.Grant.find(grantId) : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope ?? "");
    // Only what the client asked for: so a client that does not ask for more does not get it.
    grant.addResourceScope(resource, params.scope ?? "");
    await provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
});
server.listen(Number(port), "127.0.0.1", () => console.log("ready"));
