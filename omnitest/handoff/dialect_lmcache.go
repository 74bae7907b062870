package handoff

// LMCache is LMCacheConnectorV1 inside the engines. Not recorded. The proxy tokenises, asks prefill for the first token with a
// disagg_spec and sends decode the prompt with that token appended, without kv_transfer_params; so decode's prompts are longer
// than prefill's by one. Its series begin with lmcache:, and none of their names is known. How many tokens move together
// is not known either.
var LMCache = func() Dialect {
	d := vllm
	d.Name, d.TailUnknown = "lmcache", true
	d.Connectors, d.Signs = []string{"LMCacheConnectorV1"}, []string{"lmcache:"}
	d.Lacks = "lmcache: no name of its series and not the size of its chunks is known, so the verdict rests on tokens and content"
	return d
}()

// LMCacheMP is LMCacheMPConnector, LMCache in a process of its own. Not recorded. For prefill and decode it is used beside
// NIXL: Multi(&NIXL, &LMCacheMP) (LMCache #4614). Its series begin with lmcache_mp_, and none of their names is known.
var LMCacheMP = func() Dialect {
	d := LMCache
	d.Name = "lmcache-mp"
	d.Connectors, d.Signs = []string{"LMCacheMPConnector"}, []string{"lmcache_mp_"}
	d.Lacks = "lmcache-mp: no name of its series and not the size of its chunks is known, so the verdict rests on tokens and content"
	return d
}()
