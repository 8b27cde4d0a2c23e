/*-------------------------------------------------------------------------
 *
 * kube_config.c
 *	  Where a Kubernetes API server is, whom to trust, and who we are.
 *
 * In this order: what the options say themselves, a kubeconfig file, the
 * service account of the pod.  A kubeconfig that starts a program to log in
 * (exec) or turns off the check of certificates is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "common/base64.h"
#include "storage/fd.h"

#include "compat.h"
#include "net/text.h"
#include "net/yaml.h"
#include "provider/kube.h"

#define MAX_FILE_SIZE (1024 * 1024)
#define SERVICE_ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount"

/* A small file, whole.  It may hold a secret, so that only its name gets into messages. */
static char *
read_file(const char *path)
{
	FILE	   *file = AllocateFile(path, PG_BINARY_R);
	struct stat st;
	char	   *content;
	size_t		length;

	if (file == NULL || fstat(fileno(file), &st) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path),
				 errhint("It must be readable for the user that runs this server.")));
	if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a small file", path)));
	content = palloc(st.st_size + 1);
	length = fread(content, 1, st.st_size, file);
	content[length] = '\0';
	FreeFile(file);
	return content;
}

static char *
trimmed(char *text)
{
	size_t		length = strlen(text);

	while (length > 0 && strchr(" \t\r\n", text[length - 1]))
		text[	  --length] = '\0';
	return text +strspn(text, " \t\r\n");
}

/* ---------------------------------------------------------------------
 * kubeconfig
 * ---------------------------------------------------------------------
 */

/* The element of an array of {name, what} that has this name: its "what". */
static const RctlJson *
named(const RctlJson *config, const char *array, const char *name, const char *what)
{
	const RctlJson *elements = rctl_json_find(config, array);

	for (int i = 0; name && i < rctl_json_array_length(elements, ""); i++)
	{
		const RctlJson *element = rctl_json_element(elements, i);
		char	   *its = rctl_json_text(element, "name");

		if (its && strcmp(its, name) == 0)
			return rctl_json_find(element, what);
	}
	return NULL;
}

static char *
decoded(const RctlJson *json, const char *key, const char *path)
{
	char	   *text = rctl_json_text(json, key);
	char	   *result;
	int			length;

	if (text == NULL)
		return NULL;
	result = palloc(pg_b64_dec_len(strlen(text)) + 1);
	length = pg_b64_decode(text, strlen(text), (void *) result, pg_b64_dec_len(strlen(text)));
	if (length < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("\"%s\" of kubeconfig \"%s\" is not base64", key, path)));
	result[length] = '\0';
	return result;
}

/* A path in a kubeconfig is relative to it. */
static char *
file_beside(const RctlJson *json, const char *key, const char *path)
{
	char	   *file = rctl_json_text(json, key);
	char	   *directory;

	if (file == NULL || is_absolute_path(file))
		return file;
	directory = pstrdup(path);
	get_parent_directory(directory);
	return psprintf("%s/%s", directory, file);
}

static RCTL_NORETURN void refuse(const char *path, const char *what, const char *hint);

static void
refuse(const char *path, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("kubeconfig \"%s\" cannot be used", path),
			 errdetail("%s", what),
			 errhint("%s", hint)));
}

/*
 * What would be done otherwise than the file says is refused, not left out: an
 * "as" that is not obeyed, say, is more rights than were meant.
 */
static void
require_usable(const RctlJson *cluster, const RctlJson *user, const char *path)
{
	static const struct
	{
		const char *key;
		bool		of_user;
		const char *what;
		const char *hint;
	}			refused[] = {
		{"exec", true, "It starts a program to log in.",
		"Use the token of a service account: kubectl create token, and the server's option token_file."},
		{"auth-provider", true, "It starts a program to log in.",
		"Use the token of a service account: kubectl create token, and the server's option token_file."},
		{"username", true, "It logs in by a user's name and a password.",
		"Use a token or a client certificate."},
		{"as", true, "It acts as somebody else (impersonation).",
		"Use a token of that account itself: kubectl create token."},
		{"tls-server-name", false, "It asks for another name in the API server's certificate.",
		"Use an address that the certificate is for, in the server's option api_server."},
		{"proxy-url", false, "It goes through a proxy of its own.",
		"Set https_proxy and no_proxy in the environment of this server, and remove proxy-url."},
	};
	char	   *insecure = rctl_json_text(cluster, "insecure-skip-tls-verify");

	if (insecure && pg_strcasecmp(insecure, "false") != 0)
		refuse(path, "It does not verify the API server's certificate.",
			   "Give the certificate's authority by certificate-authority.");
	for (int i = 0; i < lengthof(refused); i++)
	{
		if (rctl_json_key(refused[i].of_user ? user : cluster, refused[i].key))
			refuse(path, refused[i].what, refused[i].hint);
	}
}

static void
read_kubeconfig(RctlKube *kube, const char *path, const char *context_name)
{
	char	   *text = read_file(path);
	char	   *json = rctl_yaml_to_json(text, strlen(text), psprintf("kubeconfig \"%s\"", path));
	char	   *problem;
	const RctlJson *config = rctl_json_parse(json, strlen(json), &problem);
	const RctlJson *context;
	const RctlJson *cluster;
	const RctlJson *user;

	if (config == NULL)
		refuse(path, psprintf("It could not be read: %s", problem), "Write it again.");
	if (context_name == NULL)
		context_name = rctl_json_text(config, "current-context");
	context = named(config, "contexts", context_name, "context");
	cluster = named(config, "clusters", rctl_json_text(context, "cluster"), "cluster");
	user = named(config, "users", rctl_json_text(context, "user"), "user");
	if (context == NULL || cluster == NULL || user == NULL)
		refuse(path, psprintf("It has no whole context \"%s\".", context_name ? context_name : ""),
			   "Name another one with the server's option context.");
	require_usable(cluster, user, path);

	kube->url = rctl_json_text(cluster, "server");
	kube->namespace = rctl_json_text(context, "namespace");
	kube->ca_pem = decoded(cluster, "certificate-authority-data", path);
	kube->ca_file = kube->ca_pem ? NULL : file_beside(cluster, "certificate-authority", path);
	kube->token_file = file_beside(user, "tokenFile", path);
	kube->token = rctl_json_text(user, "token");
	kube->cert_pem = decoded(user, "client-certificate-data", path);
	kube->cert_file = kube->cert_pem ? NULL : file_beside(user, "client-certificate", path);
	kube->key_pem = decoded(user, "client-key-data", path);
	kube->key_file = kube->key_pem ? NULL : file_beside(user, "client-key", path);
}

/* ---------------------------------------------------------------------
 * The service account of the pod
 * ---------------------------------------------------------------------
 */

/* The directory that Kubernetes mounts into every pod. */
static const char *
service_account(void)
{
#ifdef RCTL_TEST
	const char *elsewhere = getenv("RCTL_TEST_SERVICE_ACCOUNT");

	if (elsewhere)
		return elsewhere;
#endif
	return SERVICE_ACCOUNT;
}

static void
use_service_account(RctlKube *kube)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST");
	const char *port = getenv("KUBERNETES_SERVICE_PORT");

	if (host == NULL || port == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server does not run in a pod"),
				 errdetail("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set."),
				 errhint("Use the options api_server and token_file, or kubeconfig.")));
	kube->url = psprintf(strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host, port);
	kube->ca_file = psprintf("%s/ca.crt", service_account());
	kube->token_file = psprintf("%s/token", service_account());
	kube->namespace = trimmed(read_file(psprintf("%s/namespace", service_account())));
}

/* ---------------------------------------------------------------------
 * All together
 * ---------------------------------------------------------------------
 */

/* pstrdup for what may be NULL; an option that is not given leaves what is there. */
static void
override(char **field, const RctlMap *options, const char *name)
{
	const char *value = rctl_map_get(options, name);

	if (value)
		*field = pstrdup(value);
}

void
rctl_kube_use_namespace(RctlKube *kube, const char *namespace)
{
	kube->namespace = pstrdup(namespace);
	kube->what = psprintf("Kubernetes (server \"%s\", namespace \"%s\")", kube->server, namespace);
}

RctlKube *
rctl_kube_open(const char *server, const RctlMap *options, const char *token)
{
	RctlKube   *kube = palloc0(sizeof(RctlKube));
	const char *kubeconfig = rctl_map_get(options, "kubeconfig");
	char	   *problem;
	size_t		length;

	kube->server = server;
	if (kubeconfig)
		read_kubeconfig(kube, kubeconfig, rctl_map_get(options, "context"));
	else if (strcmp(rctl_map_get_default(options, "in_cluster", "false"), "true") == 0)
		use_service_account(kube);
	override(&kube->url, options, "api_server");
	override(&kube->namespace, options, "namespace");
	if (rctl_map_get(options, "ca_file"))
	{
		override(&kube->ca_file, options, "ca_file");
		kube->ca_pem = NULL;
	}
	if (token || rctl_map_get(options, "token_file"))
	{
		/* A client certificate would go before it, and be somebody else. */
		kube->cert_pem = kube->cert_file = kube->key_pem = kube->key_file = NULL;
		kube->token = token ? pstrdup(token) : NULL;
		kube->token_file = NULL;
		if (token == NULL)
			override(&kube->token_file, options, "token_file");
	}
	rctl_kube_use_namespace(kube, kube->namespace ? kube->namespace : "default");

	if (kube->url == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("it is not known where the Kubernetes API server is"),
				 errhint("Set the server's option api_server, kubeconfig or in_cluster.")));
	length = strlen(kube->url);
	while (length > 0 && kube->url[length - 1] == '/')
		kube->url[--length] = '\0';
	problem = rctl_http_url_problem(kube->url, false);
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the URL of the Kubernetes API server cannot be used"),
				 errdetail("%s", problem)));
	if (kube->token == NULL && kube->token_file == NULL && kube->cert_pem == NULL && kube->cert_file == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("there is no login for the Kubernetes API server"),
				 errhint("Set the option token of your user mapping, or token_file, kubeconfig or in_cluster of the server.")));
	return kube;
}

/* As it is now: in CurrentMemoryContext, and never to be logged. */
static const char *
current_token(const RctlKube *kube)
{
	const char *token = kube->token_file ? trimmed(read_file(kube->token_file)) : kube->token;

	if (token && (*token == '\0' || strpbrk(token, " \t\r\n")))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 kube->token_file ? errmsg("file \"%s\" does not hold a token", kube->token_file)
				 : errmsg("option \"token\" is not a token"),
				 errdetail("A token is one word."),
				 errhint("Write the output of kubectl create token there.")));
	return token;
}

char *
rctl_kube_name_problem(const char *name, int length)
{
	size_t		used = strlen(name);

	if (used > 0 && used <= length && name[0] != '-' && name[used - 1] != '-' &&
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == used)
		return NULL;
	return psprintf("It must be 1 to %d lower-case letters, digits and hyphens, with no hyphen at either end.", length);
}

const RctlHttpRequest *
rctl_kube_request(const RctlKube *kube, const char *method, const char *path, const char *body, const char *action)
{
	RctlHttpRequest *request = palloc0(sizeof(RctlHttpRequest));
	RctlHttpHeader *headers = palloc0(sizeof(RctlHttpHeader) * 4);
	const char *token = current_token(kube);
	int			n = 0;

	headers[n++] = (RctlHttpHeader)
	{
		"Accept", "application/json"
	};
	if (body)
		headers[n++] = (RctlHttpHeader)
	{
		"Content-Type", strcmp(method, "PATCH") == 0 ? "application/merge-patch+json" : "application/json"
	};
	if (token)
		headers[n++] = (RctlHttpHeader)
	{
		"Authorization", psprintf("Bearer %s", token)
	};
	request->method = method;
	request->url = psprintf("%s%s", kube->url, path);
	request->headers = headers;
	request->body = body;
	request->what = kube->what;
	request->action = action;
	request->once = strcmp(method, "GET") != 0;
	request->ca_file = kube->ca_file;
	request->ca_pem = kube->ca_pem;
	request->cert_file = kube->cert_file;
	request->cert_pem = kube->cert_pem;
	request->key_file = kube->key_file;
	request->key_pem = kube->key_pem;
	request->max_body = 8 * 1024 * 1024;
	return request;
}
