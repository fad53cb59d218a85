// Podsecurity applies Kubernetes' own checks of the Pod Security Standards to rendered manifests.
//
// usage: podsecurity [LEVEL] < manifests.yaml
//
// It reads a stream of YAML documents and prints a line for each object that has a pod template: `ok` or `violates`,
// with the checks that it fails. LEVEL is `restricted` (the default) or `baseline`. The exit status is 1 if any
// object violates the level, and 2 if the input cannot be read or has no workload.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	level := api.LevelRestricted
	if len(os.Args) > 1 {
		level = api.Level(os.Args[1])
	}
	if !level.Valid() {
		fail(fmt.Errorf("no level: %q; use restricted or baseline", level))
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		fail(err)
	}
	workloads, violations := 0, 0
	decode := decoder()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fail(err)
		}
		object, err := decode(document)
		if err != nil {
			fail(err)
		}
		name, metadata, spec := pod(object)
		if spec == nil {
			continue
		}
		workloads++
		results := evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, metadata, spec)
		result := policy.AggregateCheckResults(results)
		if result.Allowed {
			fmt.Printf("ok        %s\n", name)
			continue
		}
		violations++
		fmt.Printf("violates  %s: %s\n", name, result.ForbiddenDetail())
	}
	fmt.Printf("%d of %d workloads violate %s\n", violations, workloads, level)
	if workloads == 0 {
		fail(errors.New("the input has no workload"))
	}
	if violations > 0 {
		os.Exit(1)
	}
}

// decoder returns a function that reads one document; nil for an object of another API, which has no pod template.
func decoder() func([]byte) (runtime.Object, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			fail(err)
		}
	}
	codec := serializer.NewCodecFactory(scheme).UniversalDeserializer()
	return func(document []byte) (runtime.Object, error) {
		object, _, err := codec.Decode(document, nil, nil)
		if runtime.IsNotRegisteredError(err) || runtime.IsMissingKind(err) {
			return nil, nil
		}
		return object, err
	}
}

// pod returns the name of a workload with the metadata and specification of its pods; a nil specification if it has none.
func pod(object runtime.Object) (string, *metav1.ObjectMeta, *corev1.PodSpec) {
	of := func(kind, name string, template *corev1.PodTemplateSpec) (string, *metav1.ObjectMeta, *corev1.PodSpec) {
		return kind + "/" + name, &template.ObjectMeta, &template.Spec
	}
	switch workload := object.(type) {
	case *corev1.Pod:
		return "Pod/" + workload.Name, &workload.ObjectMeta, &workload.Spec
	case *appsv1.Deployment:
		return of("Deployment", workload.Name, &workload.Spec.Template)
	case *appsv1.StatefulSet:
		return of("StatefulSet", workload.Name, &workload.Spec.Template)
	case *appsv1.DaemonSet:
		return of("DaemonSet", workload.Name, &workload.Spec.Template)
	case *batchv1.Job:
		return of("Job", workload.Name, &workload.Spec.Template)
	case *batchv1.CronJob:
		return of("CronJob", workload.Name, &workload.Spec.JobTemplate.Spec.Template)
	default:
		return "", nil, nil
	}
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "podsecurity: %v\n", err)
	os.Exit(2)
}
