// A provider of load balancers for a cluster that has none: every Service of type LoadBalancer gets an address of a
// range, which kube-proxy then takes on every node, and which the caller routes to one of them.
//
//	loadbalancer RANGE     (for example 172.30.0.192/26; cluster by KUBECONFIG)
//
// It ends with its standard input, so that it cannot outlive whoever started it. spec.loadBalancerIP is honoured if it is in the range and free; otherwise such a Service stays without an address.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Services are few here, and a list a few times a second is simpler than a watch that has to be kept alive.
const period = 250 * time.Millisecond

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: loadbalancer RANGE")
	}
	pool, err := netip.ParsePrefix(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		log.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for ctx := context.Background(); ; time.Sleep(period) {
		if err := round(ctx, client, pool); err != nil {
			log.Print(err)
		}
	}
}

// round gives an address to each Service that wants one and has none. What is in use is read from the Services
// themselves, so that addresses of deleted ones are free again.
func round(ctx context.Context, client kubernetes.Interface, pool netip.Prefix) error {
	list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	used := map[netip.Addr]bool{}
	for _, service := range list.Items {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if address, err := netip.ParseAddr(ingress.IP); err == nil {
				used[address] = true
			}
		}
	}
	for i := range list.Items {
		service := &list.Items[i]
		wants := service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil
		if !wants || len(service.Status.LoadBalancer.Ingress) > 0 || service.DeletionTimestamp != nil {
			continue
		}
		address, err := choose(service, pool, used)
		if err != nil {
			continue
		}
		used[address] = true
		service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address.String()}}
		if _, err := client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("%s/%s: %w", service.Namespace, service.Name, err)
		}
		log.Printf("%s/%s: %s", service.Namespace, service.Name, address)
	}
	return nil
}

func choose(service *corev1.Service, pool netip.Prefix, used map[netip.Addr]bool) (netip.Addr, error) {
	if wanted := service.Spec.LoadBalancerIP; wanted != "" {
		address, err := netip.ParseAddr(wanted)
		if err != nil || !pool.Contains(address) || used[address] {
			return netip.Addr{}, fmt.Errorf("%s cannot be had", wanted)
		}
		return address, nil
	}
	for address := pool.Addr().Next(); pool.Contains(address); address = address.Next() {
		if !used[address] {
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %s is free", pool)
}
