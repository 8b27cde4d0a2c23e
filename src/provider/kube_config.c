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
	char	   *insecure;

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
	insecure = rctl_json_text(cluster, "insecure-skip-tls-verify");
	if (insecure && strcmp(insecure, "true") == 0)
		refuse(path, "It does not verify the API server's certificate.",
			   "Give the certificate's authority by certificate-authority.");
	if (rctl_json_find(user, "exec") || rctl_json_find(user, "auth-provider"))
		refuse(path, "It starts a program to log in.",
			   "Use the token of a service account: kubectl create token, and the server's option token_file.");
	if (rctl_json_find(cluster, "tls-server-name") || rctl_json_find(user, "username"))
		refuse(path, "tls-server-name and username cannot be used.",
			   "Use a token or a client certificate, and the name that is in the server's certificate.");

	kube->source = psprintf("kubeconfig \"%s\"", path);
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
	kube->source = "the pod's service account";
	kube->url = psprintf(strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host, port);
	kube->ca_file = SERVICE_ACCOUNT "/ca.crt";
	kube->token_file = SERVICE_ACCOUNT "/token";
	kube->namespace = trimmed(read_file(SERVICE_ACCOUNT "/namespace"));
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

RctlKube *
rctl_kube_open(const RctlMap *options, const char *token)
{
	RctlKube   *kube = palloc0(sizeof(RctlKube));
	const char *kubeconfig = rctl_map_get(options, "kubeconfig");
	char	   *problem;
	size_t		length;

	kube->source = "the server's options";
	if (kubeconfig)
		read_kubeconfig(kube, kubeconfig, rctl_map_get(options, "context"));
	else if (strcmp(rctl_map_get_default(options, "in_cluster", "false"), "true") == 0)
		use_service_account(kube);
	override(&kube->url, options, "api_server");
	override(&kube->token_file, options, "token_file");
	override(&kube->namespace, options, "namespace");
	if (rctl_map_get(options, "ca_file"))
	{
		override(&kube->ca_file, options, "ca_file");
		kube->ca_pem = NULL;
	}
	if (token)
	{
		kube->token = pstrdup(token);
		kube->token_file = NULL;
	}
	if (kube->namespace == NULL)
		kube->namespace = "default";

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
	return kube->token_file ? trimmed(read_file(kube->token_file)) : kube->token;
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
	request->what = "Kubernetes";
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
